"""What a mask means in the clinic: sizes, stages, change over time. Arrays and rule tables in, statements out."""
