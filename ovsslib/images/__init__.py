"""A picture in, a result out."""
