"""The dashboards as code, and the tools that check them."""
