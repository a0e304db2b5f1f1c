"""What belongs where, learned from nominal pictures and transplants made of them."""
