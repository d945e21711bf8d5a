"""What a notice and an appeal may say, who may appeal about what and until when, what their events add up to; pure."""
