"""A run in the forms of other people's tools: tables, WAD-QC, QATrack+. Each form is one file, from results alone."""
