"""``shira bench serve``: many adapters at once, end to end through HTTP, beside what others do on the same model.

presets → plan → runs → (shira_server | vllm_server | offline) ← workload
                  └→ load → http_client
                  └→ measures → report, plot
"""
