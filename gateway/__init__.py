"""The DICOM gateway: what modalities and PACS send becomes an upload, with the rights of a scanner.

    modality, PACS -- C-STORE --> storage_scp -> intake -> uploads bucket -> event -> Kafka -> predictor

It only writes to the uploads bucket. Everything after that is the flow that every upload takes.
"""
