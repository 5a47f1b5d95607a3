"""The data set contract and where data comes from."""
