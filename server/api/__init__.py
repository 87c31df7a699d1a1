"""HTTP and nothing else: routes over ``Services``, one table of errors, no model code."""
