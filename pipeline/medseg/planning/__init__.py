"""From fingerprint to plan."""
