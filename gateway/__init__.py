"""The DICOM gateway: what modalities and PACS send becomes an upload, with the rights of a scanner.

    modality -- C-STORE --------> storage_scp -+
    PACS -- STOW-RS over HTTP --> stow --------+-> intake -> uploads bucket -> event -> Kafka -> predictor

It only writes to the uploads bucket. Everything after that is the flow that every upload takes.
"""
