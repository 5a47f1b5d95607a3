"""What was lost on the way is sent again: uploads without a result, and dead letters after a fix."""
