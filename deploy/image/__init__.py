"""Checks the Dockerfile where no container engine runs: every step and the entry point, in clean roots.

``python -m deploy.image`` as root, or ``make image-check``. README.md in deploy/ says what that shows and what not.
"""
