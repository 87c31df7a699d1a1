"""``shira demo``: real servers, the example adapters, real answers with their receipts, and what switches take."""
