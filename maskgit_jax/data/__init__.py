"""From bytes to numpy batches: image uint8 [B, H, W, C] or tokens int32 [B, L], label int32."""
