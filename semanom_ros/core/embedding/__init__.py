"""Pictures in, embeddings out: preprocessing, encoders, segmenters, and the queries made of them."""
