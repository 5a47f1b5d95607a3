"""What several tests need: small real servers, files made for tests, and clients that act as others do."""
