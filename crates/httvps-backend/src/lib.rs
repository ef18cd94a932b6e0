//! A small reference subscription backend that serves the founding backend API
