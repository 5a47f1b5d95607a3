"""Results and readings in the forms of others: CSV, FHIR, DICOM, data sets."""
