"""Results and readings as CSV, FHIR, DICOM and data sets."""
