"""What happens inside Transform and Trainer; usable without TFX."""
