"""Messages that `make proto` writes from proto/noctule/v1; nobody edits them. Their types are given in grpc_methods."""
