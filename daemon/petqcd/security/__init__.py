"""Who somebody is, what they may do, and what they did: users, sessions, tokens, the audit log."""
