input.price * input.quantity > input.budget ? "ask first" : "buy"
