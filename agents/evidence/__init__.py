"""What a stranger needs to check the ledger: exports, proofs, and the check itself, offline."""
