"""`retouch lab cluster`: a Kafka cluster of three nodes on this machine, with TLS, users and deny-by-default ACLs."""
