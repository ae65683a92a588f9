"""The whole shop on one machine, two SIGKILLs in the middle of its work, and a bookkeeper who trusts nobody."""
