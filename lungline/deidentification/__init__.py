"""De-identification: unsure images are stored for research without anything that identifies the patient."""
