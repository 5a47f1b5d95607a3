"""Delivery of results to other systems: PACS, archives, FHIR servers, interface engines."""
