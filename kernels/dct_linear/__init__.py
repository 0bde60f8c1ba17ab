"""DCT and linear embedding with an optional [CLS] row and positions."""
