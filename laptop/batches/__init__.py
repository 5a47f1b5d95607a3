"""Batches of X-rays: folders, zips, DICOM media and S3 prefixes, uploaded at a set rate.

sources (what lies there) -> importing (judge, name, upload; the journal remembers) -> results (wait for labels)
"""
