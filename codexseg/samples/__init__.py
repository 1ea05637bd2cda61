"""Sample images: a published lung tumour, and synthetic tissue."""
