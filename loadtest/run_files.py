"""The files in the folder of a run: what its users are given, what they leave, what is kept beside the report."""

TRACE = "trace.jsonl"
STOCK = "stock.json"
START = "start.txt"
OUTCOMES = "outcomes.jsonl"
SAMPLES = "samples.jsonl"
RECORD = "report.json"
