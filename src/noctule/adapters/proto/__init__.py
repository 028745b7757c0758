"""Messages that `make proto` writes from proto/noctule/v1; nobody edits them, and grpc_methods.py gives them types."""
