"""HTTP: metrics, health, results and live progress for reading; commands only on the UNIX socket."""
