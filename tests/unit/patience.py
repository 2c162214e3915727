"""How long tests of links wait for an answer."""

PATIENT_S = 10.0
"""Where every command is answered: a busy machine may take its time."""
SHORT_S = 0.3
"""Where silence is what is tested."""
