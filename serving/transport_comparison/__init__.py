"""gRPC against REST for one served model: how long requests take, how many there can be, how many bytes they are.

inputs        what is asked: rows of a file, or random ones by the signature
load          client processes that ask as fast as they are answered
wire          bytes on the connection, counted by a relay
comparison    all cells of the table, one after the other
words, plot   what the numbers say, in sentences and in a picture
"""
