"""Starting, watching, restarting and stopping the services of the stack."""
