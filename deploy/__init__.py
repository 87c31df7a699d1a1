"""What runs the server in production, and the code that makes and checks it."""
