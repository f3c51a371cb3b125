"""Training: hyperparameters, augmentation, schedules, and the loop. It trains any network with any loss over raw maps.

What belongs here: what float training and quantization-aware training share. Losses live beside their heads in `models/`.
"""
