"""Find faces in photos, align them, locate their landmarks, and paste results back."""
