"""The worklist: results on a page, staff told, readers teach the model."""
