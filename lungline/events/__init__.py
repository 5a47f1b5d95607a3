"""Upload events and the CloudEvents codec."""
