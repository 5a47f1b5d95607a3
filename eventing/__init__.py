"""Upload and result events between store, Kafka and HTTP: bridge, trigger, replay of dead letters, reconciliation."""
