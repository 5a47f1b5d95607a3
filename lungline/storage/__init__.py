"""S3: objects, signed requests, errors."""
