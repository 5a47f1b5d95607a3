"""Histories: what every actor of a run wanted and was answered, and a checker of what must hold over all of it.

    operations     an operation, a whole history, and the journal that actors write while they work
    actors         scanners, a reader and a promoter, which write what they wanted and what they were answered
    modality       a modality, which sends DICOM files to the gateway
    officer        a data protection officer, who has uploads erased
    receiver       a webhook that receives notices
    witness        reads the topics while a stack works
    traces         what predictor, worklist and store have kept, and the promotion history, as operations
    *_rules        what must hold; each rule is a function from a history to the violations that it sees
    checker        all rules over a history, with a sentence for each violation
    seeded_run     a stack at work while a seed kills its parts

The idea is Jepsen's: nothing looks into the system while it runs. An operation without an answer may have happened or
not, and no rule counts it as either.
"""
