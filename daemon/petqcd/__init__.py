"""The running service and the petqc command."""
