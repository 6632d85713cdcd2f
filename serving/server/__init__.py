"""A model server that speaks TensorFlow Serving's protocols: same flags, gRPC, REST, version life cycle and batching.

    grpc_*  rest_*                 protocols; each turns its own messages into calls of the predictor
       predictor                   what a request means, without a transport
    manager → sources, loading     which versions there are, which one answers, when one goes
       session_runtime, tflite_runtime    what computes

Importing this package loads no TensorFlow.
"""
