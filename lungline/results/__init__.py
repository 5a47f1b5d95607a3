"""Result records, result events and reading records in the results bucket."""
