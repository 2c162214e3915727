"""What holds bias: permits, bypasses, alarms, trips with their story, and what people may do with bias sources."""
