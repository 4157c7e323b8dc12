"""Promotion on a running system: promoter, MLflow server and the reflection worker that answers users, each killed at every transition."""
