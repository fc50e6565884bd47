"""What the pipeline is measured against, each in a folder of its own with a README of its own."""
