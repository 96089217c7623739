"""From fingerprint to plan: the rules that configure medseg for a dataset."""
