"""What several algorithms use, and is no algorithm itself.

gaussian_process   surrogates of black-box functions (FZooS)
pacing             pacing functions (the curricula of data and of clients)
surrogate          a client's model of its black-box function (FZooS)
reach              how far a step rule reached, and its mean gradient (FedCM, FedNova, SCAFFOLD)
"""
