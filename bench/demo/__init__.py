"""The demonstration behind `retouch demo`."""
